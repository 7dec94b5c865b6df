"""The daemon: processes that capture, learn names, write records, and the supervisor that looks after them."""
