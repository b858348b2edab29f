"""Documents to a token store, restartable; reading one."""
