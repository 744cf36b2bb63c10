"""What to do for one GpuNode and the machine behind it."""
