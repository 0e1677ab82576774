"""Reading templates, key policies and Terraform plans, including hostile ones."""
