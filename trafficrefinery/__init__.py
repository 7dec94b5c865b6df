"""Traffic Refinery: packets to machine-learning features, per flow and per service, while they arrive."""

__version__ = "0.1.0"
