"""Where and how the algorithm runs: device, precision, threads, memory, executables."""
