"""What the two CloudFormation templates contain, and how they become YAML."""
