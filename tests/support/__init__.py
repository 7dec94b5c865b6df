"""What tests share: traces and traffic, naive twins, the fuzzer, real counterparts and their networks."""
