"""Templates, key policies and Terraform plans as strangers write them, read within limits."""
