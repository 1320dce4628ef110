"""The pipeline. Importing it chooses kernels and how threads wait, before numpy or torch is loaded."""

from stages.common.runtime import choose_kernels, choose_waiting

choose_kernels()
choose_waiting()
