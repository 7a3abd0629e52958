import textwrap
from pathlib import Path

from server.farm.config import parse_config
from server.yamlfile import parse_yaml

PAGE = Path(__file__).parents[3] / "docs" / "farm.yaml.md"


def test_the_example_of_the_page_is_a_farm_yaml() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if not line or line.startswith("    ")]
    text = textwrap.dedent("\n".join(lines))
    config = parse_config(parse_yaml(text, str(PAGE)), str(PAGE), Path("/"))
    assert config.inventory.by_ip["10.9.0.11"].mac == "52:54:00:00:00:01"
    assert config.address_map == {"10.8.0.7": "52:54:00:00:00:07"}
    assert config.http.limits["body_bytes"] == 4096
