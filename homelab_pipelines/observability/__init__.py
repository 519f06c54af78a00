"""Alert delivery and pings; later Prometheus rules, dashboards and log shipping."""
