"""The library. Importing it chooses kernels and how threads wait, before numpy or torch is loaded."""

from onesentence.core.runtime import choose_kernels, choose_waiting

choose_kernels()
choose_waiting()
