"""How a line looks."""

from vitoolkit.views.styles import INK, control_styles, variable_styles


def test_every_variable_has_a_line_of_its_own():
    styles = variable_styles([f"v{i}" for i in range(35)])
    assert len(set(styles.values())) == 35
    assert variable_styles(["v0", "v1"]) == {name: styles[name] for name in ("v0", "v1")}


def test_a_control_of_one_variable_has_its_color():
    variables = variable_styles(["z", "w"])
    styles = control_styles(["beta[w]", "rate", "other"], {"beta[w]": "w"}, variables)
    assert styles["beta[w]"] == variables["w"]
    assert {styles["rate"].color, styles["other"].color} == {INK}
    assert styles["rate"] != styles["other"]
