"""Native kernels: the network's layers in C, compiled for this processor."""
