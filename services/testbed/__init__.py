"""All roles as processes of one machine, for demonstrations, tests and studies."""
