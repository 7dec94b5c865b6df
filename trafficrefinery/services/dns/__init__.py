"""DNS: messages and their answers read in compiled code, and in Python what is too large for that; what they teach."""
