"""What reader, writer and broker say to each other."""
