"""What AWS answers to one request: key policies, identity policies and grants, evaluated."""
