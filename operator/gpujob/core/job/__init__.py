"""What to do for one GpuJob: one attempt after the other, until the job is over."""
