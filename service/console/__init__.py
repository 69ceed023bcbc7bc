"""The web console at ``/``: the flow of deployments, live, and the failed tickets."""
