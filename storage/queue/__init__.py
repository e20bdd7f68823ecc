"""What changes: studies, tickets, leases, attempts, outcomes, workers. One transaction a verb."""
