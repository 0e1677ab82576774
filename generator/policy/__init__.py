"""Evaluates key policies, identity policies and grants for one request, as AWS would."""
