"""The GpuJob operator: users see `api`, `core` decides, `adapters` touch the world."""
