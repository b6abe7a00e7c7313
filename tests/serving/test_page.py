"""The page in a real browser: fill in a form, drop a picture, step a policy, chat, stop, by keyboard and in Chinese."""

import base64
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

import reinforge
from reinforge.serving.limits import Limits
from reinforge.serving.listening import listen
from reinforge.serving.server import Server
from reinforge.serving.task import Access
from reinforge.serving.tokens import add_token, read_tokens
from reinforge.workflow.generate import Draws, generate
from tests.bundle import made
from tests.workflow.test_play import POLE

selenium = pytest.importorskip("selenium", reason="the browser is driven by selenium")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="there is no chromium and chromedriver (Debian: chromium, chromium-driver)"
)
# Where to leave pictures of the page, for people to look at.
PICTURES = os.environ.get("REINFORGE_SCREENSHOTS")
DROP = """
const bytes = Uint8Array.from(atob(arguments[1]), each => each.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], "seven.png", { type: "image/png" }));
arguments[0].dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    digits = ["learn.stop.epochs=1"]
    return {
        "table": made.table_bundle(folder / "table"),
        "policy": made.policy_bundle(folder / "policy"),
        "digits": reinforge.load(reinforge.train("digits", overrides=digits, output=folder / "digits").bundle_path),
        "pole": reinforge.load(reinforge.train(POLE, output=folder / "pole").bundle_path),
        "chat": made.chat_bundle(folder / "chat", context=3000),
        "text": made.text_bundle(folder / "text"),
    }


@pytest.fixture(scope="module")
def served(bundles):
    server = Server(bundles, listen("127.0.0.1", 0), access=Access(watch=True), limits=Limits(body=1 << 20))
    with server.background() as url:
        yield server, url


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--lang=en"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """One model's page, as a person sees it."""

    def __init__(self, driver, url, name):
        self.driver = driver
        driver.get("about:blank")
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.get(f"{url}/#{name}")
        driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        driver.refresh()
        self.wait(lambda: self.texts("#models [aria-pressed=true]") == [name] and self.texts("#facts h2") == [name])

    def wait(self, condition, seconds=20):
        WebDriverWait(self.driver, seconds, 0.05).until(lambda _driver: condition())

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        return self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(each => each.textContent)", selector
        )

    def fill(self, selector, text):
        field = self.one(selector)
        field.clear()
        field.send_keys(text)
        return field

    def shot(self, name, *, width=1200, dark=False):
        if PICTURES:
            Path(PICTURES).mkdir(exist_ok=True)
            scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            wide = self.driver.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, f"{name} is {wide} pixels wide"
            self.driver.save_screenshot(str(Path(PICTURES) / f"{name}{'-dark' if dark else ''}-{width}.png"))
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def shots(self, name):
        for width in (1200, 390):
            for dark in (False, True):
                self.shot(name, width=width, dark=dark)


@pytest.fixture
def page(browser, served):
    yield lambda name: Page(browser, served[1], name)
    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert not [line for line in errors if "status of 4" not in line["message"]], errors


def test_a_form_is_filled_in_and_answered(page, bundles):
    at = page("table")
    at.fill("#field-0", "41.5")
    mass = at.fill("#field-1", "heavy")
    Select(at.one("#field-2")).select_by_visible_text("Dream")
    at.one("#predict").click()
    assert at.texts("#answer .error p") == ["mass", "This must be a number."]
    assert at.driver.switch_to.active_element == mass
    mass.clear()
    mass.send_keys("3456", Keys.ENTER)
    at.wait(lambda: at.texts("#answer .value"))
    (expected,) = bundles["table"].predict([{"size": 41.5, "mass": 3456, "island": "Dream"}])
    assert at.texts("#answer .value")[0] == expected["species"]["label"]
    assert float(at.texts("#answer .value")[1]) == pytest.approx(expected["price"]["value"], rel=1e-4)
    first = max(expected["species"]["probabilities"].items(), key=lambda each: each[1])
    assert at.texts("#answer .bars li")[0] == f"{first[0]}{100 * first[1]:.1f} %"
    program = at.one("#request code").text
    assert program.startswith("curl http://127.0.0.1:")
    assert '"mass":3456' in program
    at.shots("table")
    at.one("#language").click()
    assert at.one("#predict").text == "预测"
    assert at.driver.execute_script("return document.documentElement.lang") == "zh-CN"
    assert at.texts("#answer h2") == ["结果"]
    assert at.one("#field-1").get_attribute("value") == "3456", "what was filled in stays"
    at.shot("table-chinese")


def test_the_program_shown_runs(page):
    at = page("table")
    at.one("#predict").click()
    at.wait(lambda: at.texts("#request .tabs button") == ["curl", "Python"])
    at.driver.find_elements(By.CSS_SELECTOR, "#request .tabs button")[1].click()
    told = []
    exec(at.one("#request code").text, {"print": told.append})
    assert told[0][0]["species"]["label"] == at.texts("#answer .value")[0]


def test_words_in_texts_are_no_literals_of_the_program(page):
    at = page("table")
    row = {"a": 'null, "true" or false', "b": None, "c": True}
    made = at.driver.execute_script("return rowPrograms({ path: 'predict', row: arguments[0] }).Python", row)
    rows = {}
    exec(made.partition("\n\n")[2].partition("\nanswer")[0], rows)
    assert rows["rows"] == [row]


@pytest.mark.parametrize("number", ["1e999", "-Infinity"])
def test_what_is_too_large_is_not_sent_as_missing(page, number):
    at = page("table")
    at.fill("#field-0", number).send_keys(Keys.ENTER)
    assert at.texts("#answer .error p")[1] == "This must be a number."


def test_an_answer_is_in_sight_on_a_phone(page):
    at = page("table")
    size = {"width": 390, "height": 500, "deviceScaleFactor": 1, "mobile": True}
    at.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    at.one("#field-0").send_keys(Keys.ENTER)
    at.wait(lambda: at.texts("#answer .value"))
    at.wait(lambda: at.driver.execute_script("return here('answer').getBoundingClientRect().top < innerHeight - 40"), 5)


def test_a_token_is_asked_for_and_a_wrong_one_told(browser, bundles, tmp_path):
    secret = add_token(tmp_path / "tokens.json", "me", ["predict"])
    access = Access(tokens=tuple(read_tokens(tmp_path / "tokens.json")))
    server = Server({"table": bundles["table"]}, listen("127.0.0.1", 0), access=access)
    with server.background() as url:
        browser.get(url)
        browser.execute_script("localStorage.clear(); sessionStorage.clear()")
        browser.refresh()
        at = Page.__new__(Page)
        at.driver = browser
        at.wait(lambda: at.one("#access").is_displayed() and not at.one("#work").is_displayed())
        assert at.driver.switch_to.active_element == at.one("#token")
        assert at.texts(".error") == []
        at.fill("#token", "wrong").send_keys(Keys.ENTER)
        at.wait(lambda: at.texts(".error p") == ["The server does not know this token."])
        at.fill("#token", secret).send_keys(Keys.ENTER)
        at.wait(lambda: at.texts("#facts h2") == ["table"])
        assert at.one("#predict").is_displayed()
        assert not at.one("#access").is_displayed()
    browser.get_log("browser")


def test_a_picture_is_dropped(page, bundles, tmp_path):
    at = page("digits")
    pixels = np.zeros((8, 8), np.uint8)
    pixels[1, 1:7] = pixels[range(2, 7), [5, 4, 4, 3, 3]] = 255
    Picture.fromarray(pixels).resize((64, 64), Picture.Resampling.NEAREST).save(tmp_path / "seven.png")

    content = base64.b64encode((tmp_path / "seven.png").read_bytes()).decode()
    at.driver.execute_script(DROP, at.one(".drop"), content)
    at.wait(lambda: at.texts("#answer .value"))
    name = bundles["digits"].schema.inputs[0].name
    (expected,) = bundles["digits"].predict([{name: content}])
    assert at.texts("#answer .value")[0] == next(iter(expected.values()))["label"]
    assert at.driver.execute_script("return document.querySelector('.drop img').naturalWidth") == 64
    at.shots("digits")


def test_a_policy_is_stepped(page, bundles):
    at = page("policy")
    assert at.one("#predict").text == "Step"
    for observation in ([0.1, 2, 3, 4], [-3, -1, 0.5, 2]):
        at.driver.execute_script("arguments[0].value = ''", at.one("#field-0"))
        at.one("#field-0").send_keys(str(observation), Keys.CONTROL, Keys.ENTER)
        (expected,) = bundles["policy"].predict([{"observation": observation}])
        at.wait(lambda expected=expected: at.texts("#answer .value") == [str(expected["action"]["action"])])
    at.shots("policy")


def test_a_policy_is_watched_in_its_environment(page, bundles):
    at = page("pole")
    told = reinforge.play(bundles["pole"], 1, seed=4)
    at.fill("#watch-seed", "4")
    assert at.one("#play").text == "Play"
    for step in range(3):
        at.one("#one-step").click()
        at.wait(lambda step=step: f"step {step} ·" in at.one("#figures").text)
    assert at.driver.execute_script("return document.querySelector('#frame').naturalWidth") == 480
    at.shots("watched")
    at.one("#play").click()
    at.wait(lambda: "the episode is over" in at.one("#figures").text)
    assert at.one("#figures").text.startswith(f"step {told['lengths'][0]} ·")
    assert f"return {told['returns'][0]:g}" in at.one("#figures").text
    assert not at.one("#play").is_enabled()
    # Back to an earlier step, by keyboard.
    at.one("#reel").send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    assert at.one("#figures").text.startswith("step 1 ·")
    at.one("#language").click()
    assert at.one("#episode").text == "新回合"
    at.one("#episode").click()
    assert at.one("#watch-seed").get_attribute("value") == "5"
    at.wait(lambda: "回合结束" in at.one("#figures").text)
    at.shot("watched-chinese", width=390)
    # A policy whose bundle names no environment has nothing to show.
    assert not page("policy").one("#watch").is_displayed()


def test_a_chat_is_streamed_and_goes_on(page, bundles, served):
    at = page("chat")
    assert at.driver.switch_to.active_element == at.one("#words"), "one can type at once"
    at.one("#settings summary").click()
    at.fill("#temperature", "0.8")
    at.fill("#most", "60")
    at.fill("#seed", "4")
    at.fill("#system", "be kind")
    at.one("#words").send_keys("hello there", Keys.ENTER)
    at.wait(lambda: "tokens/s" in at.texts(".turn.assistant p")[0])
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello there"}]
    (first,) = generate(bundles["chat"], [{"messages": messages}], Draws(60, 0.8, seed=4))
    assert at.texts(".turn.assistant .words") == [first.text]
    assert f"{first.tokens} tokens" in at.texts(".turn.assistant p")[0]
    at.one("#words").send_keys("and again", Keys.SHIFT, Keys.ENTER, Keys.NULL, "please", Keys.ENTER)
    at.wait(lambda: len(at.texts(".turn")) == 4 and "tokens/s" in at.texts(".turn.assistant p")[1])
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "and again\nplease"}]
    (second,) = generate(bundles["chat"], [{"messages": messages}], Draws(60, 0.8, seed=4))
    assert at.texts(".turn.assistant .words")[1] == second.text
    at.shots("chat")
    at.driver.find_elements(By.CSS_SELECTOR, "#request .tabs button")[1].click()
    told = []
    exec(at.one("#request code").text, {"print": lambda text, **_more: told.append(text)})
    assert "".join(told) == second.text
    at.one("#language").click()
    assert at.one("#send").text == "发送"
    assert len(at.texts(".turn")) == 4, "another language ends no conversation"
    at.shot("chat-chinese", width=390)
    at.one("#anew").click()
    assert at.texts(".turn") == []


@pytest.mark.parametrize("how", ["button", "key"])
def test_an_answer_is_stopped(page, served, how, monkeypatch):
    server, _url = served
    at, writer = page("chat"), server.models["chat"].writer
    step = writer._engine.step
    monkeypatch.setattr(writer._engine, "step", lambda: (time.sleep(0.01), step())[1])
    at.one("#settings summary").click()
    at.fill("#temperature", "0")
    at.fill("#most", "2500")
    at.one("#words").send_keys("hello", Keys.ENTER)
    at.wait(lambda: writer.running == 1 and len(at.texts(".turn.assistant .words")[0]) > 3)
    at.shot(f"writing-{how}", dark=how == "key")
    if how == "button":
        at.one("#stop").click()
    else:
        at.one("#words").send_keys(Keys.ESCAPE)
    at.wait(lambda: writer.running == 0)
    at.wait(lambda: "stopped by you" in at.texts(".turn.assistant p")[0])
    assert len(at.texts(".turn.assistant .words")[0]) < 2500
    assert at.driver.switch_to.active_element == at.one("#words")


def test_what_can_not_be_said_is_told_and_can_be_mended(page):
    at = page("chat")
    at.driver.execute_script("arguments[0].value = 'x'.repeat(4000)", at.one("#words"))
    at.one("#send").click()
    at.wait(lambda: at.texts("#talk-error .error"))
    assert "context" in at.texts("#talk-error .error")[0]
    assert at.texts(".turn") == []
    assert len(at.one("#words").get_attribute("value")) == 4000
    at.shot("error", dark=True)
    at.one("#settings summary").click()
    at.fill("#words", "hello")
    at.fill("#temperature", "7").send_keys(Keys.TAB)
    at.one("#send").click()
    assert "Temperature" in at.texts("#talk-error .error")[0]
    assert at.texts(".turn") == []


def test_a_text_is_gone_on_with(page, bundles):
    at = page("text")
    at.one("#settings summary").click()
    at.fill("#temperature", "0")
    at.fill("#most", "12")
    at.one("#words").send_keys("the quick", Keys.ENTER)
    at.wait(lambda: "tokens" in at.texts(".turn.assistant p")[0])
    assert at.texts(".turn.assistant .words") == [generate(bundles["text"], ["the quick"], Draws(12, 0.0))[0].text]
    assert "/v1/completions" in at.one("#request code").text
    at.shot("text")
