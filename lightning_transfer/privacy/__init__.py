"""Private training: gradients of single examples, clipped and made noisy, and the account of what that costs."""
