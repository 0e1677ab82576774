"""How the console presents a template's parameters."""

from itertools import groupby

from troposphere import Parameter, Template

from generator.parameters import TemplateParameter


def add_parameters(template: Template, parameters: tuple[TemplateParameter, ...]) -> None:
    """Declare *parameters* in *template*, and group and label them for the console.

    Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-cloudformation-interface.html
    """
    for parameter in parameters:
        template.add_parameter(_declaration(parameter))
    groups = [
        {"Label": {"default": group}, "Parameters": [member.name for member in members]}
        for group, members in groupby(parameters, key=lambda parameter: parameter.group)
    ]
    labels = {parameter.name: {"default": parameter.label} for parameter in parameters}
    template.set_metadata(
        {"AWS::CloudFormation::Interface": {"ParameterGroups": groups, "ParameterLabels": labels}}
    )


def _declaration(parameter: TemplateParameter) -> Parameter:
    optional = {"Default": parameter.default, "MaxLength": parameter.max_length}
    return Parameter(
        parameter.name,
        Type=parameter.type,
        Description=parameter.description,
        AllowedPattern=parameter.pattern,
        ConstraintDescription=parameter.constraint,
        **{name: value for name, value in optional.items() if value is not None},
    )
