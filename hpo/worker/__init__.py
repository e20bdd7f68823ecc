"""A worker: supervises runners on one machine, renews their leases, registers itself."""
