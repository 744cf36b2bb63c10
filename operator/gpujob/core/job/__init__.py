"""What is to be done for one GpuJob: attempts one after the other until it is over."""
