"""The compiled modules; their sources are in ``src_cython/tfos_fast/native``, in the same tree."""
