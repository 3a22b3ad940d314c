"""The features of a customer, as stock Feast objects."""

from churn.tables import customers
from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.types import Bool, Float64, Int64, String

from headrace import TableSource

customer = Entity(name="customer", join_keys=["CustomerId"], value_type=ValueType.STRING)
customer_rows = TableSource(customers, timestamp_field="valid_from")

contract = FeatureView(
    name="contract",
    entities=[customer],
    source=customer_rows,
    schema=[
        Field(name="Age", dtype=Int64),
        Field(name="Tenure", dtype=Int64),
        Field(name="ContractType", dtype=String),
        Field(name="MonthlyCharges", dtype=Float64),
        Field(name="TotalCharges", dtype=Float64),
    ],
)

services = FeatureView(
    name="services",
    entities=[customer],
    source=customer_rows,
    schema=[Field(name="HasPhoneService", dtype=Bool), Field(name="HasInternetService", dtype=Bool)],
)

payment = FeatureView(
    name="payment",
    entities=[customer],
    source=customer_rows,
    schema=[
        Field(name="InternetService", dtype=String),
        Field(name="PaymentMethod", dtype=String),
        Field(name="CustomerValue", dtype=Float64),
        Field(name="RiskScore", dtype=Float64),
    ],
)

churn_features = FeatureService(name="churn", features=[contract, services, payment])
