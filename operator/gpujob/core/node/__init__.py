"""What is to be done for one GpuNode, and the machine behind it."""
