"""Notebook kernels in containers, and magics that pull and run images."""
