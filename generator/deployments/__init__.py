"""What a template can be deployed as: parameters, conditions and functions as symbols."""
