"""What the gateway's overhead costs: the load, the upstreams and the peers to measure it with."""
