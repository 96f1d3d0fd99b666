"""KRT: a streaming workflow runtime on NATS JetStream."""
