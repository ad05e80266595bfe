"""Native kernels: NatureCNN's layers in C, compiled for this processor. See README.md."""
