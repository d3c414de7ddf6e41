"""The HTTP door: FastAPI over the supervisor's `Service`. Nothing here knows about models or processes."""
