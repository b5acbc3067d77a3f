"""The cloud: keeps the fleet and the runs, decides who trains where, aggregates adapters. No torch."""
