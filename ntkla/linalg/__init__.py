"""The ground floor: exact and certified linear algebra that knows nothing of tasks."""
