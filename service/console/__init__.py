"""What a person sees at ``/``: the way of every deployment, live, and what waits for them."""
