"""Words of the made-up app, of which a quarter is kept from training."""

from __future__ import annotations

import random
from itertools import accumulate

from loadtest.corpus.dice import Dice

UNSEEN = 4
"""One of so many words does not occur in training."""


def _words(text: str) -> list[str]:
    return text.split()


PHRASES = _words("""
您的包裹 预计 今晚 八点前 送达 骑手 已到店 正在取餐 距您 约三公里 请保持 电话畅通 门口 前台 快递柜 取件 凭码 感谢等待 天气原因 稍有延误
本期账单 已出 还款日 自动扣款 尾号 支出 收入 到账 手续费 免收 余额不足 换一张卡 额度 临时提高 安全验证 陌生设备 登录尝试 若非本人 立即冻结
周三会员日 满五十 减十二 新店开业 买一送一 加料免费 第二件半价 老顾客 回馈 限量三百份 售完即止 不与其他优惠同享 门店自取 外送可用 截止周日
开会改到 三点半 会议室 换成 楼下那间 资料 发群里 收到 好的 没问题 晚点回你 路上堵车 先点菜 给你带杯 少冰 半糖 谢谢啦 明早见 別忘了 带身份证
周末 爬山 露营 烤肉 自驾 高铁票 抢到了 候补 靠窗 酒店 含双早 可取消 退改规则 行程单 电子发票 抬头 税号 报销 审批通过 待补充 材料
孩子 家长会 作业 打卡 体检 预约成功 请空腹 带医保卡 三楼 候诊区 叫号 剩余两人 药品 已配齐 煎服 忌辛辣 疫苗 第二针 社区 物业 停水 检修 电梯 恢复
社保 补缴 公积金 提取 利率 下调 基金 净值 更新 分红 再投资 持有收益 波动较大 注意风险 存钱罐 攒下 目标 完成七成 步数 排名 超过好友 心率 睡眠 深睡
手写 咖啡豆 浅烘 柑橘 香气 燕麦奶 拿铁 厚乳 桂花 乌龙 生椰 杨梅 冰粉 凉皮 肉夹馍 牛肉面 不要香菜 多放醋 微辣 打包 餐具 无需 两份 一人食 套餐
充电桩 空闲 每度 停车费 首小时 免费 月卡 续期 违章 已处理 年检 临近 加油 九五 立减 洗车 券包 过期提醒 公交 换乘 末班车 施工 改道 步行 六分钟
演唱会 开票 预售 座位图 内场 看台 实名 入场 脱口秀 展览 早鸟 亲子票 电影 点映 好评如潮 值得二刷 剧透 慎入 书评 作者 更新 连载 番外 收藏 转发
""")
ENGLISH = _words("""
parcel arrives tonight before eight courier waiting lobby locker code thanks patience slight delay rain statement ready autopay ending
card limit raised verify unknown device freeze refund issued deposit fee waived insufficient switch members day second half price sold out
pickup only until sunday meeting moved room downstairs notes shared okay sure later stuck traffic order first less ice see tomorrow passport
hiking camping barbecue train seats window breakfast included cancel free invoice approved missing document school homework clinic booked
fasting third floor queue two left vaccine community water repair elevator restored pension rate fund value dividend volatile careful saved
goal steps ranking sleep espresso citrus oat latte noodles vinegar mild takeaway cutlery none charging bay available parking first hour
renewed fuel wash coupon expiring last bus detour walk minutes concert presale stand entry exhibition early bird screening chapter bookmark
""")
TEMPLATES = _words("""
您在{shop}的订单已由{person}取走，预计{minutes}分钟后送到{street}，请保持电话畅通。
订单尾号{number}已送达{street}的快递柜，取件码{number}，超过24小时将收取保管费。
{shop}已接单，正在为您备餐，大约{minutes}分钟后可以取餐。
您尾号{number}的储蓄卡于{clock}支出{amount}元，商户：{shop}，点击查看明细。
您收到一笔退款{amount}元，来自{shop}，已退回原支付账户，预计今日到账。
本月账单{amount}元已生成，请在还款日前保证余额充足，以免影响信用。
检测到您的账号于{clock}在新设备登录，如非本人操作，请立即修改密码并冻结账户。
{person}邀请您加入拼单，还差1人即可享受{amount}元优惠，{minutes}分钟后失效。
您关注的{shop}上新了，今日前100名下单立减{amount}元，数量有限，先到先得。
您有一张{amount}元优惠券将于今晚{clock}过期，可在{shop}使用，不要错过。
您预约的{shop}将在{minutes}分钟后开始，地址：{street}，请提前到店签到。
{street}附近有{minutes}个空闲车位，首小时免费，点击导航前往。
骑手{person}距离您还有{minutes}分钟，如需修改地址请尽快联系。
您的发票（{amount}元，{shop}）已开具，请到票夹中下载电子版。
会员积分到账{number}分，可在积分商城兑换{shop}代金券。
您在{street}的充电已完成，共消费{amount}元，请在{minutes}分钟内移车。
明日{clock}{street}将停水检修，请提前做好准备，给您带来不便敬请谅解。
您的理财收益{amount}元已到账，收益随市场波动，投资需谨慎。
{shop}回复了您的评价：感谢您的支持，欢迎下次光临！
您的快递已到{street}驿站，凭{number}取件，营业至{clock}。
公交{number}路还有{minutes}分钟到达{street}，请做好上车准备。
您有新的家庭缴费账单：燃气费{amount}元，点击一键缴纳。
您的订单因{shop}备货不足已取消，{amount}元将原路退回，请注意查收。
好友{person}向您转账{amount}元，请在24小时内确认收款，逾期将自动退回。
""")
ENGLISH_TEMPLATES = (
    "Your order from {shop} was picked up by {person} and arrives in {minutes} minutes.",
    "Parcel {number} is in the locker at {street}; the code is {number}.",
    "Your card ending {number} paid {amount} at {shop} at {clock}. Tap for details.",
    "A refund of {amount} from {shop} is on its way to your account.",
    "New sign-in at {clock}. If this was not you, lock your account now.",
    "Your coupon of {amount} for {shop} ends tonight at {clock}.",
    "Your statement of {amount} is ready; keep enough balance for the due date.",
    "Courier {person} is {minutes} minutes away from {street}.",
)
BRANDS = _words(
    "青禾 半山 鹿角 云朵 拾光 北岸 小满 橘子 老街 三味 蓝鲸 松针 麦浪 初见 晚风 石榴 竹里 星河 白露 南枝 陶罐 木棉 潮汐 野渡"
)
TRADES = _words("烘焙 面馆 鲜果 药房 文具 花坊 洗衣 酒馆 粥铺 眼镜 五金 母婴 茶社 海鲜 书屋 修车 理发 瑜伽")
PLACES = _words(
    "和平路 春熙巷 滨江道 文昌里 学院街 五四广场 望湖桥 科创园 柳营 金鸡湖 曾厝垵 解放碑 东门口 鼓浪屿 龙华里 梅溪"
)
FAMILY = "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦许何吕施张孔曹严华金魏陶姜"
GIVEN = "安然嘉宁思远若溪子墨雨桐一鸣书瑶景行知夏浩宇清和望舒明哲晓岚乐天"
AREAS = _words("home pay ride chat feed map scan mall bill login push search album locker invoice")
PARTS = _words(
    "cache banner timeout retry prefetch theme upload sampling quota cdn socket captcha skeleton badge grayscale"
)
KNOBS = _words("on ratio ms max list level url bucket since mode")
PAGES = _words("home cart detail profile result bill chatroom scanner map album coupon settings help invoice locker")
ITEMS = _words(
    "双层芝士汉堡 手冲耶加雪菲 无糖豆浆 原切牛排 冻干草莓 竹纤维抽纸 蓝牙耳机 硅胶手机壳 儿童雨靴 有机西兰花 现磨黑芝麻 荞麦枕 保温杯 羽毛球拍 全麦吐司 洗衣凝珠 速干毛巾 桂花酒酿 低钠酱油 山泉水"
)
TAGS = _words("new hot near saved family member seasonal refund vip trial local night")


class Vocabulary:
    """The words that one split may use, some far likelier than others."""

    def __init__(self, seed: int, training: bool) -> None:
        self._dice = random.Random(f"vocabulary {seed}")
        self.training = training
        self.phrases = self._cut(PHRASES)
        self.templates = self._cut(TEMPLATES)
        self.english_templates = self._cut(list(ENGLISH_TEMPLATES))
        self.english = self._cut(ENGLISH)
        self.shops = self._cut([brand + trade for brand in BRANDS for trade in TRADES])
        self.streets = self._cut(PLACES)
        self.items = self._cut(ITEMS)
        self.pages = self._cut(PAGES)
        self.tags = self._cut(TAGS)
        self.knobs = self._cut([f"{area}.{part}.{knob}" for area in AREAS for part in PARTS for knob in KNOBS])
        self._weights: dict[int, list[float]] = {}

    def _cut(self, words: list[str]) -> list[str]:
        """In an order of popularity that is the seed's; without every fourth one for training."""
        shuffled = sorted(set(words))
        self._dice.shuffle(shuffled)
        return [word for place, word in enumerate(shuffled) if not self.training or place % UNSEEN]

    def words(self) -> set[str]:
        """All of them."""
        every = (
            self.phrases,
            self.templates,
            self.english_templates,
            self.english,
            self.shops,
            self.streets,
            self.items,
            self.pages,
            self.tags,
            self.knobs,
        )
        return {word for words in every for word in words}

    def pick(self, dice: Dice, words: list[str]) -> str:
        """One word; the first ones are likelier (Zipf, exponent 0.8)."""
        weights = self._weights.get(len(words))
        if weights is None:
            weights = self._weights[len(words)] = list(accumulate((n + 1) ** -0.8 for n in range(len(words))))
        return dice.random.choices(words, cum_weights=weights)[0]

    def sentence(self, dice: Dice, length: int, chinese: bool) -> str:
        """`length` Chinese phrases or twice as many English words."""
        if not chinese:
            words = [self.pick(dice, self.english) for _ in range(2 * length)]
            return " ".join(words).capitalize() + "."
        parts = []
        for place in range(length):
            parts.append(self.pick(dice, self.phrases))
            if dice.share("text/number", 10):
                parts.append(dice.digits(dice.between("text/digits", 1, 4)))
            if place + 1 < length:
                parts.append(dice.deal("text/comma", ("", "", "，", " ")))
        return "".join(parts) + dice.deal("text/end", ("。", "", "！", "~"))

    def person(self, dice: Dice) -> str:
        """A name."""
        return dice.random.choice(FAMILY) + "".join(dice.random.sample(GIVEN, dice.between("person", 1, 2)))
