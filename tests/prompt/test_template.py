import pytest

from genrecall.errors import ConfigError
from genrecall.prompt.template import NAMES, Template, load_template


@pytest.mark.parametrize("name", NAMES)
def test_ours_load_and_survive_json(name):
    template = load_template(name)
    assert template.name == name
    assert Template.from_dict(template.to_dict()) == template


def test_only_the_compact_one_is_a_plain_causal_row():
    assert [load_template(name).causal for name in NAMES] == [True, False, False]


def test_profile_sentences():
    profile = load_template("zh").profile
    assert profile.render({"gender": "女", "age": "25", "note": " "}) == "用户画像：年龄25，性别女。"
    assert profile.render({}) == ""


def test_a_file_of_the_user(tmp_path):
    file = tmp_path / "shop.toml"
    file.write_text('head = "Bought: "\nitem = "{title} {sid}"\njoiner = "; "\ntail = " Next?"\n')
    template = load_template(file)
    assert (template.name, template.uses_titles) == ("shop", True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hed = 'x'", "unknown keys"),
        ("item = '{title}'", "name the SID once"),
        ("head = ", "cannot be read"),
        ("[profile]\nsentnce = 'x'", "unknown keys"),
    ],
)
def test_mistakes_in_a_file(tmp_path, text, said):
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_template(file)


def test_an_unknown_name():
    with pytest.raises(ConfigError, match="no such prompt template"):
        load_template("klingon")
