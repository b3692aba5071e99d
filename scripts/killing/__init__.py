"""What the script kills does to commands, and how it compares what they leave."""
