"""Runtime of both servers: access, budgets, interceptors, settings and logging."""
