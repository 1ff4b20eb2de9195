"""Where code runs: resources and the ways to start a job."""
