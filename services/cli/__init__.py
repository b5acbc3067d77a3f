"""The `elsa` command: starts the roles, submits and follows runs, tries what they made, and shows a whole demo."""
