"""The features of a flower, computed from the measurements in the request by the same function in training."""

from feast import FeatureService, Field
from feast.data_source import RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64

from headrace import params

MEASUREMENTS = ("sepal_length", "sepal_width", "petal_length", "petal_width")
AREAS = params("features.areas")
NAMES = (*MEASUREMENTS, "sepal_area", "petal_area") if AREAS else MEASUREMENTS

measured = RequestSource(name="measured", schema=[Field(name=name, dtype=Float64) for name in MEASUREMENTS])


@on_demand_feature_view(
    sources=[measured],
    schema=[Field(name=f"{name}_cm", dtype=Float64) for name in NAMES],
    mode="python",
    singleton=True,
)
def shape(inputs):
    """The measurements, and the areas of the leaves as if they were rectangles."""
    features = {f"{name}_cm": inputs[name] for name in MEASUREMENTS}
    if AREAS:
        features["sepal_area_cm"] = inputs["sepal_length"] * inputs["sepal_width"]
        features["petal_area_cm"] = inputs["petal_length"] * inputs["petal_width"]
    return features


species_features = FeatureService(name="species", features=[shape])
