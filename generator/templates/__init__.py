"""What the CloudFormation templates contain, and how they are rendered as YAML."""
