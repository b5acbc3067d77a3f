"""What ELSA measures of itself; figures and the commands that made them stand in `benchmarks/README.md`."""
