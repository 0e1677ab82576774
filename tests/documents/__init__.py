"""How templates, key policies and Terraform plans are read, whoever wrote them."""
