"""The pipeline. Importing it chooses the kernels, before numpy or torch is loaded."""

from stages.common.runtime import choose_kernels

choose_kernels()
