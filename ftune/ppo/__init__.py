"""PPO on one frozen base (arXiv:1707.06347, arXiv:2203.02155): policy, reference, value and reward in one module."""
