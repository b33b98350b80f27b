"""Monitor chips: power, alarms, events, fans, temperatures."""

from __future__ import annotations

import errno

import pytest
from tests.fakes.trees import Content, Files

from backbench.agent.sensors.base import Unread, Value
from backbench.agent.sensors.hwmon import Drives, HardwareMonitors
from backbench.domain.device import SensorChannel

_Content = str | Content


def chip(place: int, name: _Content, **files: _Content) -> dict[str, _Content]:
    folder = f"sys/class/hwmon/hwmon{place}"
    return {f"{folder}/name": name, **{f"{folder}/{file}": said for file, said in files.items()}}


def rails(place: int, *labels: str | None, **more: _Content) -> dict[str, _Content]:
    """An INA3221 whose rails carry 5 V and 1, 2 and 3 A."""
    files: dict[str, _Content] = dict(more)
    for number, label in enumerate(labels, start=1):
        files |= {f"in{number}_input": "5000\n", f"curr{number}_input": f"{number}000\n"}
        if label is not None:
            files[f"in{number}_label"] = f"{label}\n"
    return chip(place, "ina3221\n", **files)


def probed(files: dict[str, _Content]) -> tuple[dict[str, SensorChannel], dict[str, Value]]:
    source = HardwareMonitors(Files(files))
    coverage = source.probe()
    return {channel.name: channel for channel in coverage.channels}, dict(source.read())


def values(files: dict[str, _Content]) -> dict[str, Value]:
    return probed(files)[1]


def test_the_rail_that_everything_flows_through_is_the_total() -> None:
    channels, read = probed(rails(1, "VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"))
    assert read["power.total"] == read["power.rail.VDD_IN"] == 5000
    assert read["power.input"] == 5000
    total = channels["power.total"]
    assert (total.unit, total.scope, total.method) == ("mW", "module_input", "measured")


def test_without_one_the_total_is_the_sum_and_says_so() -> None:
    channels, read = probed(rails(3, "GPU", "CPU", "SOC") | rails(4, "CV", "VDDRQ", "SYS5V"))
    assert read["power.total"] == 2 * (5000 + 10000 + 15000)
    assert (channels["power.total"].scope, channels["power.total"].method) == ("sum_of_rails", "summed")
    assert "power.input" not in channels


def test_a_rail_that_another_may_contain_stays_out_of_the_sum() -> None:
    read = values(rails(3, "VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0") | rails(4, "NC", "VDDQ_VDD2_1V8AO", "NC"))
    assert read["power.rail.VDDQ_VDD2_1V8AO"] == 10000
    assert read["power.total"] == 30000
    assert not [name for name in read if "NC" in name]


def test_what_flows_into_the_carrier_comes_before_what_flows_into_the_module() -> None:
    files = rails(3, "VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")
    files |= chip(4, "ina238", in1_input="19800\n", curr1_input="1160\n", power1_input="22968000\n")
    channels, read = probed(files)
    assert (read["power.total"], read["power.input"]) == (22968, 19800)
    assert (channels["power.total"].scope, channels["power.total"].method) == ("board_input", "measured")


def test_unnamed_rails_have_no_total() -> None:
    """One of them may be the input of the others."""
    read = values(rails(1, "VDD_X", None, None))
    assert sorted(read) == ["power.rail.CH2", "power.rail.CH3", "power.rail.VDD_X"]


def test_an_unreadable_rail_leaves_the_sum_unknown() -> None:
    files = rails(3, "GPU", "CPU", "SOC")
    files["sys/class/hwmon/hwmon3/curr2_input"] = errno.EAGAIN
    read = values(files)
    assert read["power.rail.CPU"] == read["power.total"] == Unread("EAGAIN")
    assert read["power.rail.GPU"] == 5000


def test_shunt_voltages_are_no_rails() -> None:
    more: dict[str, _Content] = {"in7_label": "sum of shunt voltages\n", "in7_input": "0\n", "in4_input": "12\n"}
    assert sorted(values(rails(1, "VDD_IN", **more))) == ["power.input", "power.rail.VDD_IN", "power.total"]


def test_power_states_over_how_long_the_chip_averages_where_the_chip_tells() -> None:
    told = probed(rails(1, "VDD_IN", samples="512\n", update_interval="430\n"))[0]
    assert told["power.total"].window_ns == told["power.rail.VDD_IN"].window_ns == 430_000_000
    assert probed(rails(1, "VDD_IN", samples="512\n"))[0]["power.total"].window_ns is None
    assert probed(rails(1, "VDD_IN", update_interval=errno.EACCES))[0]["power.total"].window_ns is None


def test_a_sum_is_as_slow_as_its_slowest_chip() -> None:
    fast, slow = rails(3, "GPU", update_interval="4"), rails(4, "CV", update_interval="900")
    assert probed(fast | slow)[0]["power.total"].window_ns == 900_000_000
    assert probed(fast | rails(4, "CV"))[0]["power.total"].window_ns is None


def test_numbers_of_chips_do_not_matter() -> None:
    def board(*places: int) -> dict[str, _Content]:
        return (
            rails(places[0], "VDD_IN", "VDD_SOC", curr1_crit_alarm="1\n")
            | chip(places[1], "pwmfan\n", pwm1="67\n")
            | chip(places[2], "soctherm_oc\n", oc3_event_cnt="37\n", oc3_throt_en="1\n")
        )

    assert values(board(0, 1, 2)) == values(board(10, 2, 7)) != {}


def test_the_older_driver_of_the_same_chip_tells_power_itself() -> None:
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    channels, read = probed(
        {
            f"{folder}/rail_name_0": "POM_5V_IN\n",
            f"{folder}/in_voltage0_input": "5008\n",
            f"{folder}/in_current0_input": "1120\n",
            f"{folder}/in_power0_input": "5607\n",
            f"{folder}/warn_current_limit_0": "32760 ma\n",
            f"{folder}/rail_name_1": "NC\n",
            f"{folder}/rail_name_2": "POM_5V_GPU\n",
            f"{folder}/in_voltage2_input": "5000\n",
            f"{folder}/in_current2_input": "24\n",
        }
    )
    assert read == {
        "power.rail.POM_5V_IN": 5607,
        "power.rail.POM_5V_GPU": 120,
        "power.total": 5607,
        "power.input": 5008,
    }
    assert channels["power.total"].scope == "module_input"


@pytest.mark.parametrize(("alarms", "flag"), [(("0", "0"), 0), (("0", "1"), 1)])
def test_the_alarm_of_any_rail_is_a_witness(alarms: tuple[str, str], flag: int) -> None:
    files = rails(1, "VDD_IN", curr1_crit_alarm=alarms[0]) | rails(2, "CV", curr1_crit_alarm=alarms[1])
    assert values(files)["throttle.power.alarm"] == flag


def test_the_limits_of_a_rail_are_no_alarm() -> None:
    more: dict[str, _Content] = {"curr1_max": "5232\n", "curr1_crit": "5232\n"}
    assert "throttle.power.alarm" not in values(rails(1, "VDD_IN", **more))


def test_over_current_events_are_counted_and_the_switch_that_allows_them_is_not() -> None:
    files = chip(3, "soctherm_oc\n", oc1_event_cnt="0", oc1_throt_en="1", oc2_event_cnt="8", oc3_event_cnt="813")
    channels, read = probed(files)
    assert read == {
        "throttle.events.undervolt": 0,
        "throttle.events.oc_avg": 8,
        "throttle.events.oc_inst": 813,
    }
    assert {channel.kind for channel in channels.values()} == {"counter"}


def test_a_counter_that_goes_backwards_is_passed_on_as_it_is() -> None:
    tree = Files(chip(3, "soctherm_oc\n", oc3_event_cnt="813\n"))
    source = HardwareMonitors(tree)
    source.probe()
    source.read()
    tree.files["sys/class/hwmon/hwmon3/oc3_event_cnt"] = b"2\n"
    assert source.read() == {"throttle.events.oc_inst": 2}


def test_a_low_supply_shows_on_a_raspberry_pi() -> None:
    assert values(chip(1, "rpi_volt\n", in0_lcrit_alarm="1\n")) == {"throttle.undervoltage.rpi_volt": 1}
    assert values(chip(1, "rpi_volt\n", in0_lcrit_alarm=errno.EAGAIN)) == {
        "throttle.undervoltage.rpi_volt": Unread("EAGAIN")
    }


def test_fans_of_both_families() -> None:
    jetson = chip(0, "pwmfan\n", pwm1="255\n") | chip(2, "pwm_tach\n", rpm="1145\n")
    assert values(jetson) == {"fan.pwm": 1000, "fan.rpm": 1145}
    assert values(chip(2, "pwmfan\n", pwm1="0\n", fan1_input="0\n")) == {"fan.pwm": 0, "fan.rpm": 0}
    assert values({"sys/devices/pwm-fan/cur_pwm": "51\n"}) == {"fan.pwm": 200}
    assert values(chip(0, "pwmfan\n", pwm1="300\n")) == {"fan.pwm": Unread("ERANGE")}
    assert values(chip(0, "pwmfan\n", pwm1="51\n") | chip(1, "pwmfan\n", pwm1="255\n")) == {
        "fan.pwm": 200,
        "fan.pwm_2": 1000,
    }


def test_a_chip_that_repeats_a_thermal_zone_adds_no_temperature() -> None:
    zone = {"sys/class/thermal/thermal_zone0/type": "cpu-thermal\n", "sys/class/thermal/thermal_zone0/temp": "1\n"}
    files = zone | chip(0, "cpu_thermal\n", temp1_input="1\n") | chip(1, "rp1_adc\n", temp1_input="54310\n")
    assert values(files) == {"temp.rp1_adc": 54310}
    assert values(chip(0, "cpu_thermal\n", temp1_input="1\n")) == {"temp.cpu_thermal": 1}


def test_disks_are_a_slow_source_of_their_own_and_temperatures_have_their_labels() -> None:
    files = chip(0, "nvme\n", temp1_label="Composite\n", temp1_input="40850\n", temp2_input="41000\n")
    files |= chip(1, "nvme\n", temp1_label="Composite\n", temp1_input="30850\n")
    assert values(files) == {}
    source = Drives(Files(files))
    assert source.rate_hz <= 1  # a reading is a command to the disk
    assert len(source.probe().channels) == 3
    assert source.read() == {"temp.nvme.composite": 40850, "temp.nvme.2": 41000, "temp.nvme.composite_2": 30850}


def test_cores_are_not_interrupted_for_their_temperatures() -> None:
    files = chip(
        0, "coretemp\n", temp1_label="Package id 0", temp1_input="71000", temp2_label="Core 0", temp2_input="1"
    )
    assert values(files) == {"temp.coretemp.package_id_0": 71000}


def test_an_unknown_chip_is_no_trouble() -> None:
    source = HardwareMonitors(Files(chip(0, "nct6775\n", fan1_input="900\n", in0_input="1000\n")))
    coverage = source.probe()
    assert (coverage.state, coverage.channels, dict(source.read())) == ("absent", (), {})
