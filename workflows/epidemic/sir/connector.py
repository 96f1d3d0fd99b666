"""The SIR model as every runner of batch runs expects it."""

from krt_connector import Connector, Folders, UnsupportedInput
from model import Parameters, simulate

# Below, chance decides, and the model knows no chance.
LEAST_POPULATION = 1000


def run(config: dict, folders: Folders) -> dict:
    """Turn the input into what the model takes, run it, and turn its course into the output."""
    population = config["population"]
    if population < LEAST_POPULATION:
        raise UnsupportedInput(f"{population} people are fewer than the {LEAST_POPULATION} that the model is made for")
    parameters = Parameters(config["r0"], config["recoveryDays"], population, config["infected"])
    course = simulate(parameters, config["days"])
    rows = [f"{day},{s:.1f},{i:.1f},{r:.1f}" for day, (s, i, r) in enumerate(course)]
    (folders.output / "course.csv").write_text("\n".join(["day,susceptible,infected,removed", *rows, ""]))
    infected = [round(day[1], 1) for day in course]
    peak = max(infected)
    print(f"r0 {config['r0']:g}: {peak:,.0f} infected at the peak, on day {infected.index(peak)}")
    return {"infected": infected, "peak": {"day": infected.index(peak), "share": round(peak / population, 3)}}


if __name__ == "__main__":
    Connector(
        "sir",
        input_schema="input-schema.json",
        output_schema="output-schema.json",
        model_version="1.0.0",
        connector_version="1.0.0",
    ).main(run)
