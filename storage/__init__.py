"""What workers share: tickets, leases, workers, artifacts, and Optuna's own tables beside them.

Knows SQLAlchemy and Optuna's storage; knows neither torch nor the service.
"""
