"""How ELSA is deployed, and what writes the files that follow from the chart."""
